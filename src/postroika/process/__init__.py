"""What a process of ours is to the system it runs on: who it is, what it may do, where its files are.

`identity` turns root into the configured user, `confinement` takes from a process what it does not need, `places` sees
to directories and their owners, `open_files` fits the connections to the descriptors there are, `service_manager`
speaks to systemd, `operations_log` writes lines that nobody can forge.
"""
