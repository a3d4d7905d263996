"""Room occupancy, predicted from measurements of the air."""
