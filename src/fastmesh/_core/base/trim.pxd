"""Give clean file pages back (L0): code and constants that only the start needed.

What a private, read-only mapping of a file holds unchanged is in the page cache anyway: dropped from this process, it comes back with a
minor fault when it is needed. A mapping with pages of its own (relocated data) is left alone.
"""

cdef extern from *:
    """
    #include <stdio.h>
    #include <string.h>
    #include <sys/mman.h>

    /* bytes of the mappings that were given back; 0 when /proc cannot be read */
    static inline unsigned long fm_trim_files(void) {
        FILE *f = fopen("/proc/self/smaps", "re");
        char line[512], perms[8];
        unsigned long from = 0, to = 0, inode = 0, private_kb, given = 0;
        if (f == NULL)
            return 0;
        while (fgets(line, sizeof line, f) != NULL) {
            unsigned long a, b, i;
            if (sscanf(line, "%lx-%lx %7s %*x %*s %lu", &a, &b, perms, &i) == 4) {
                from = a; to = b; inode = i;
            } else if (sscanf(line, "Anonymous: %lu kB", &private_kb) == 1) {
                if (inode != 0 && private_kb == 0 && perms[0] == 'r' && perms[1] == '-' && perms[3] == 'p'
                    && madvise((void *)from, to - from, MADV_DONTNEED) == 0)
                    given += to - from;
            }
        }
        fclose(f);
        return given;
    }
    """
    unsigned long fm_trim_files() nogil
