"""Who made an object; what is left of deployments that are gone."""
