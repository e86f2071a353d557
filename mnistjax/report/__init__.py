"""Tables, figures and dashboards, from records only."""
