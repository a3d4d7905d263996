"""Parts that pipelines share: options with their stages and columns."""
