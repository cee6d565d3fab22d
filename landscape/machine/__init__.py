"""Resources of the machine: devices and precisions, memory, processes."""
