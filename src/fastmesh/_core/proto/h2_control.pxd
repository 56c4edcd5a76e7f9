"""HTTP/2 frames that carry no message (L1): SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, PRIORITY, GOAWAY, and unknown ones."""
from fastmesh._core.base.view cimport View
from fastmesh._core.proto.h2_frame cimport H2Head
from fastmesh._core.proto.h2_stream cimport H2

cdef void h2_control(H2 *h, const H2Head *f, View *v) noexcept nogil
"""A whole frame whose head has passed h2_head_check; *v is its payload."""
