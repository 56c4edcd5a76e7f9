"""`make demo`: the whole mesh on one machine, as real processes, with every claim checked by real traffic.

__main__   options, order of the steps, exit status
steps      what is shown and checked, a function a step
mesh       the processes, their ports, files and their end
apps       the two applications, `web` and `reviews`
traffic    clients, and the arithmetic of splits and latencies
screen     how it looks: colour and progress on a terminal, plain text elsewhere
"""
