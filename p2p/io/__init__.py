"""Everything that touches the machine: selectors loop, sockets, files, interfaces, terminal."""
