# The rendezvous server, unprivileged:
#   docker build --target server -t p2p-server . && docker run --network host p2p-server
# The tests in the NAT laboratory, 4 at a time; what follows the image's name goes to pytest:
#   docker build --target nat-lab -t p2p-nat-lab . && docker run --rm --cap-add NET_ADMIN --cap-add SYS_ADMIN \
#     --security-opt systempaths=unconfined --device /dev/net/tun p2p-nat-lab
# (where docker confines by AppArmor, also --security-opt apparmor=unconfined)
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS server
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --no-create-home --shell /usr/sbin/nologin p2p
WORKDIR /opt/p2p
# The server needs nothing but Python's own library.
COPY p2p p2p
USER p2p
EXPOSE 8080/udp 8081/udp 8080/tcp
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "p2p.server"]

FROM ${BASE} AS nat-lab
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends \
    ca-certificates python3 python3-venv iptables nftables miniupnpd-nftables miniupnpc natpmpc iproute2 tcpdump iperf3 coturn stun-client \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/p2p
COPY . .
RUN python3 -m venv .venv && .venv/bin/pip install -q --no-cache-dir "tox>=4" && .venv/bin/tox run -q -e nat-lab --notest
ENV NETLAB_REQUIRED=1
ENTRYPOINT [".venv/bin/tox", "run", "-q", "-e", "nat-lab", "--skip-pkg-install", "--"]
