"""Fields in halls: from sparse sensors and known walls, the reading at places that have no sensor."""
