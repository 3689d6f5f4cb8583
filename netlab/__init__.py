"""A NAT laboratory on the Linux kernel: hosts, NAT routers and a routed core in network namespaces.

Pure (no kernel, golden-tested): :mod:`netlab.topology`, :mod:`netlab.nat`, :mod:`netlab.plan`,
:mod:`netlab.faults`. Everything that touches the kernel is behind :class:`netlab.lab.Lab`.
"""
