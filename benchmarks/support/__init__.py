"""What benchmarks share: models, clocks, tables, places in the documentation."""
