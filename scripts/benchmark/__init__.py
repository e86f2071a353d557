"""mnistjax beside other libraries and beside what the machine allows.

`measure` names the workloads, `race` runs the contenders, `floors` measures the machine, `results` shows the
records.
"""
