"""The lab report that mnistjax reproduces: Laczko and Joshi, "Neural Networks from Scratch".

`study` reads our runs, `tables` compares them with the lab report's numbers, `conclusions` tests its claims
by `estimates`, `record` keeps the results, `figures` and `page` show them, `reproduction` trains.
"""
