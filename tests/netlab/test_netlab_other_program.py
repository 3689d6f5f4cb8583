"""Programs that are not ours, across two NATs: the example of netlab/README.md, word for word."""

import sys
from subprocess import PIPE

from netlab.nat import FULL_CONE, SYMMETRIC
from netlab.topology import two_nats

FETCH = "import sys, urllib.request as r; print(r.urlopen(f'http://{sys.argv[1]}:8000').status)"
ASK = "until timeout 1 turnutils_stunclient $0; do :; done"  # it asks once; coturn may still be starting


def test_a_web_server_behind_a_full_cone_is_read_from_behind_a_symmetric_nat(netlab):
    lab = netlab(two_nats(FULL_CONE, SYMMETRIC))
    alice, left, right, bob = map(lab.host, ("alice", "left", "right", "bob"))
    left.iptables(f"iptables -t nat -A PREROUTING -i wan -p tcp --dport 8000 -j DNAT --to {alice.address}")
    web = alice.popen([sys.executable, "-u", "-m", "http.server"], stdout=PIPE, stderr=PIPE, text=True)
    assert "Serving HTTP" in web.stdout.readline()
    fetched = bob.run([sys.executable, "-c", FETCH, left.address], stdout=PIPE, text=True, timeout=60)
    assert fetched.stdout == "200\n"
    assert web.stderr.readline().startswith(right.address)  # bob, as his router shows him


def test_coturn_tells_both_hosts_their_routers_address(netlab):
    lab = netlab(two_nats(FULL_CONE, SYMMETRIC))
    server = lab.host("server")
    server.popen(["turnserver", "-n", "-S", "-L", server.address, "--no-cli", "--log-file=stdout"], stdout=PIPE)
    for host, router in (("alice", "left"), ("bob", "right")):
        told = lab.host(host).run(["sh", "-c", ASK, server.address], stdout=PIPE, text=True, timeout=60)
        assert f"reflexive addr: {lab.host(router).address}:" in told.stdout
