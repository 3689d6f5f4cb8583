"""Programs that are not ours, across two NATs: the example of docs/netlab.md, word for word."""

import sys
from subprocess import PIPE

from netlab.nat import PORT_RESTRICTED, SYMMETRIC
from netlab.topology import two_nats

FETCH = "import sys, urllib.request as r; print(r.urlopen(f'http://{sys.argv[1]}:8000').status)"
ASK = "until timeout 1 turnutils_stunclient $0; do :; done"  # it asks once; coturn may still be starting


def test_a_web_server_is_reached_through_both_nats_and_sees_the_routers(lab):
    running = lab(two_nats(PORT_RESTRICTED, SYMMETRIC))
    server = running.host("server")
    web = server.popen([sys.executable, "-u", "-m", "http.server"], stdout=PIPE, stderr=PIPE, text=True)
    assert "Serving HTTP" in web.stdout.readline()
    for host, router in (("alice", "left"), ("bob", "right")):
        fetch = [sys.executable, "-c", FETCH, server.address]
        assert running.host(host).run(fetch, stdout=PIPE, text=True, timeout=20).stdout == "200\n"
        assert web.stderr.readline().startswith(running.host(router).address)


def test_coturn_tells_both_hosts_their_routers_address(lab):
    running = lab(two_nats(PORT_RESTRICTED, SYMMETRIC))
    server = running.host("server")
    server.popen(["turnserver", "-n", "-S", "-L", server.address, "--no-cli", "--log-file=stdout"], stdout=PIPE)
    for host, router in (("alice", "left"), ("bob", "right")):
        told = running.host(host).run(["sh", "-c", ASK, server.address], stdout=PIPE, text=True, timeout=20)
        assert f"reflexive addr: {running.host(router).address}:" in told.stdout
