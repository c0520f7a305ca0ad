#!/bin/sh
# Called by udhcpc with the lease in its environment.
. /usr/lib/guest/lib.sh
case $1 in
bound | renew)
    ip -4 addr show dev "$interface" | grep -q "inet $ip/" || {
        ip -4 addr flush dev "$interface"
        ip addr add "$ip/${mask:-24}" brd + dev "$interface"
    }
    read -r index <"/sys/class/net/$interface/ifindex"
    for gateway in $router; do
        ip route replace default via "$gateway" dev "$interface" metric $((100 + index))
        break
    done
    {
        [ -z "$domain" ] || echo "search $domain"
        for server in $dns; do echo "nameserver $server"; done
    } >"$RUN/resolv.$interface"
    cat $RUN/resolv.* >/etc/resolv.conf
    [ "$1" = renew ] || mark "dhcp $interface $ip"
    ;;
deconfig) ip -4 addr flush dev "$interface" ;;
esac
exit 0
