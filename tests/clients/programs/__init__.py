"""Short programs with the structure of the public examples; what they change for a method ends in `# changed`."""
