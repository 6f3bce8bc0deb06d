"""What is under test: tiny configurations, weights, processors and inputs."""
