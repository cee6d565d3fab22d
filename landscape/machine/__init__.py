"""What the machine has: devices and precisions, memory, processes."""
