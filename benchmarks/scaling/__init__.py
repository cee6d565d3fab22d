"""Growth of time and memory with size and with processes, and time beside other work on the machine."""
