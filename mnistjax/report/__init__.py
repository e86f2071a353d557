"""Tables, figures and a dashboard of any runs, made from their records only."""
