"""What studies share: units of work, training runs, intervals, the toy's arms."""
