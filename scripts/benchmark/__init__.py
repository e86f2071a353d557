"""A benchmark of mnistjax, of other libraries, and of the limits of the machine.

`measure` names the workloads, `race` runs the contenders, `floors` measures the machine, `results` shows the
records.
"""
