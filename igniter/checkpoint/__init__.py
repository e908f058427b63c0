"""What a run needs to go on, on disk. The modules of this package are imported one by one."""
