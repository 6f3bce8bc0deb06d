"""Proof that the checks work: realistic faults are planted in real models, and the battery must find each one."""
