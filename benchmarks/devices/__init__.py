"""Another device beside the CPU: the same numbers, and at what speed?"""
