# docker build --target server  -t p2p-server .     the rendezvous server, unprivileged
# docker build --target nat-lab -t p2p-nat-lab .    all tests with the NAT lab: docker run --rm --privileged p2p-nat-lab
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/p2p
COPY pyproject.toml README.md LICENSE.md ./
COPY p2p p2p
COPY netlab netlab

FROM python AS server
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install -q --no-cache-dir . \
 && useradd --system --no-create-home --shell /usr/sbin/nologin p2p
USER p2p
EXPOSE 8080/udp 8081/udp 8080/tcp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/venv/bin/python", "-m", "p2p.server"]

FROM python AS nat-lab
COPY . .
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends \
    iptables ethtool tcpdump conntrack iproute2 iperf3 util-linux stun-client coturn procps \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv .venv && .venv/bin/pip install -q --no-cache-dir "tox>=4"
ENV NETLAB_REQUIRED=1
ENTRYPOINT [".venv/bin/tox", "run", "-e", "py,nat-lab"]
