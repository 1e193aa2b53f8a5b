# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
# For sh: prints all that a tunnel could leave on a host, so that the same twice says that it left nothing.
export LC_ALL=C
systemctl is-system-running --wait # what boots is not there yet
sed 's:^/lib/:/usr/lib/:' /var/lib/dpkg/info/*.list | sort -u >/root/owned
find /etc /usr /opt /root /srv /var/lib /var/spool -xdev -not -type d | sort | comm -13 /root/owned - |
    grep -vE '^(/root/(owned|before|now|\.ansible/.*)|/var/lib/(apt|dpkg|systemd)/.*|.*\.pyc)$'
find /etc -xdev -type f -not -path '/etc/*shadow-' -not -path /etc/group- -exec sha256sum {} + | sort -k 2 # groupadd keeps the former ones
find /run -name '*marzban*' -o -name '*mz[0-9]*'
ip -brief link
ip -brief address
ip rule
ip -6 rule
ip route show table all
ip -6 route show table all | sed 's/ expires [0-9]*sec//'
ip xfrm state 2>&1
ip xfrm policy 2>&1
nft list ruleset
systemctl list-units --no-legend --plain --type=service,socket,timer,path | awk '{ print $1, $3 }'
sysctl --all --pattern '^net\..*(forwarding|rp_filter|disable_(ipv6|policy|xfrm)) ='
