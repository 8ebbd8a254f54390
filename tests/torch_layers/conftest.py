from quiet_torch import one_thread, seed  # noqa: F401 # fixtures of every test here
