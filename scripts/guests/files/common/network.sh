# network-config (version 1 and 2) of NoCloud; DHCP on every interface that it does not name.
# Sourced after lib.sh; call read_network FILE, then start_network.
# $RUN/net holds one file per interface with shell-quoted lines for configure_interface.

interfaces() {  # those with the kernel's names, and those that network-config renamed
    for nic in /sys/class/net/*; do
        nic=${nic##*/}
        case $nic in
        eth* | en*) echo "$nic" ;;
        *) [ ! -f "$RUN/net/$nic" ] || echo "$nic" ;;
        esac
    done
}

interface_by_mac() {  # interface_by_mac MAC
    mac=$(echo "$1" | tr A-F a-f)
    for nic in /sys/class/net/*; do
        read -r address <"$nic/address" 2>/dev/null
        [ "$address" = "$mac" ] && [ "${nic##*/}" != lo ] && echo "${nic##*/}" && return
    done
}

net_value() { sed -n "s|^$1$TAB||p" $RUN/net.flat | head -n1; }
net_values() { sed -n "s|^$1$TAB||p" $RUN/net.flat; }

rename_interface() {  # rename_interface FROM TO
    [ "$1" = "$2" ] || { ip link set "$1" down; ip link set "$1" name "$2"; }
}

mask_bits() {  # mask_bits 255.255.255.0: 24
    bits=0
    for part in $(echo "$1" | tr . ' '); do
        while [ "$part" -gt 0 ]; do bits=$((bits + part % 2)); part=$((part / 2)); done
    done
    echo $bits
}

say() { echo "$*" >>"$RUN/net/$nic_name"; }

read_network() {  # read_network FILE
    rm -rf $RUN/net; mkdir -p $RUN/net
    [ -f "$1" ] || return 0
    flatten "$1" $RUN/net.flat
    sed -i 's|^network/||' $RUN/net.flat
    case $(net_value version) in
    1) read_version_1 ;;
    2) read_version_2 ;;
    *) mark "network-config has no version 1 or 2: DHCP everywhere" ;;
    esac
}

read_version_2() {
    for id in $(sed -n 's|^ethernets/\([^/]*\)[/'"$TAB"'].*|\1|p' $RUN/net.flat | uniq); do
        base=ethernets/$id
        nic_name=$id
        mac=$(net_value "$base/match/macaddress")
        pattern=$(net_value "$base/match/name")
        if [ -n "$mac" ]; then nic_name=$(interface_by_mac "$mac")
        elif [ -n "$pattern" ]; then for nic_name in $(interfaces) ''; do case $nic_name in $pattern) break ;; esac; done
        fi
        [ -n "$nic_name" ] && [ -e "/sys/class/net/$nic_name" ] || { mark "network-config: no interface for $id"; continue; }
        new=$(net_value "$base/set-name")
        [ -z "$new" ] || { rename_interface "$nic_name" "$new"; nic_name=$new; }
        version_2_settings
    done
}

version_2_settings() {
    : >"$RUN/net/$nic_name"
    case $(net_value "$base/dhcp4") in [Tt]rue | yes | on) say dhcp ;; esac
    for value in $(net_value "$base/mtu"); do say "mtu $value"; done
    for value in $(net_values "$base/addresses/[0-9]*"); do say "address $value"; done
    for value in $(net_values "$base/gateway[46]"); do say "route default $value"; done
    for number in $(sed -n "s|^$base/routes/\([0-9]*\)/to$TAB.*|\1|p" $RUN/net.flat); do
        say "route $(net_value "$base/routes/$number/to") $(net_value "$base/routes/$number/via") $(net_value "$base/routes/$number/metric")"
    done
    for value in $(net_values "$base/nameservers/addresses/[0-9]*"); do say "dns $value"; done
    for value in $(net_values "$base/nameservers/search/[0-9]*"); do say "search $value"; done
}

read_version_1() {
    for number in $(sed -n "s|^config/\([0-9]*\)/type$TAB.*|\1|p" $RUN/net.flat); do
        base=config/$number
        case $(net_value "$base/type") in
        physical) version_1_interface ;;
        nameserver) for value in $(net_value "$base/address") $(net_values "$base/address/[0-9]*"); do echo "nameserver $value" >>$RUN/resolv.static; done ;;
        *) mark "network-config: type $(net_value "$base/type") is not known here" ;;
        esac
    done
}

version_1_interface() {
    nic_name=$(net_value "$base/name")
    mac=$(net_value "$base/mac_address")
    if [ -n "$mac" ]; then
        found=$(interface_by_mac "$mac")
        [ -n "$found" ] || { mark "network-config: no interface has $mac"; return; }
        rename_interface "$found" "${nic_name:=$found}"
    fi
    [ -e "/sys/class/net/$nic_name" ] || { mark "network-config: no interface $nic_name"; return; }
    : >"$RUN/net/$nic_name"
    for value in $(net_value "$base/mtu"); do say "mtu $value"; done
    for subnet in $(sed -n "s|^$base/subnets/\([0-9]*\)/type$TAB.*|\1|p" $RUN/net.flat); do
        version_1_subnet "$base/subnets/$subnet"
    done
}

version_1_subnet() {
    case $(net_value "$1/type") in dhcp | dhcp4) say dhcp ;; esac
    address=$(net_value "$1/address")
    mask=$(net_value "$1/netmask")
    case $address$mask in
    '') ;;
    */*) say "address $address" ;;
    *) say "address $address/$(case $mask in *.*) mask_bits "$mask" ;; *) echo "${mask:-24}" ;; esac)" ;;
    esac
    for value in $(net_value "$1/gateway"); do say "route default $value"; done
    for value in $(net_value "$1/dns_nameservers") $(net_values "$1/dns_nameservers/[0-9]*"); do say "dns $value"; done
    for value in $(net_value "$1/dns_search") $(net_values "$1/dns_search/[0-9]*"); do say "search $value"; done
    for number in $(sed -n "s|^$1/routes/\([0-9]*\)/.*|\1|p" $RUN/net.flat | uniq); do
        to=$(net_value "$1/routes/$number/network"); [ -n "$to" ] || to=$(net_value "$1/routes/$number/destination")
        mask=$(net_value "$1/routes/$number/netmask")
        case $to in */*) ;; *) to=$to/$(mask_bits "$mask") ;; esac
        say "route $to $(net_value "$1/routes/$number/gateway")"
    done
}

family() { case $1 in *:*) echo -6 ;; esac; }

dhcp() {  # dhcp NIC: in the background, for as long as the guest runs
    udhcpc -i "$1" -x "hostname:$(hostname)" -s /usr/lib/guest/udhcpc.sh -t 10 -T 1 -A 1 -b -p "/run/udhcpc.$1.pid" >/dev/null 2>&1 &
}

configure_interface() {  # configure_interface NIC, from $RUN/net/NIC
    asks_dhcp=no
    while read -r word first second third; do
        case $word in
        dhcp) asks_dhcp=yes ;;
        mtu) ip link set "$1" mtu "$first" ;;
        address) ip $(family "$first") addr add "$first" dev "$1" ;;
        route)
            case $first in 0.0.0.0/0 | ::/0) first=default ;; esac
            ip $(family "$second$first") route add "$first" ${second:+via "$second"} dev "$1" ${third:+metric "$third"}
            ;;
        dns) echo "nameserver $first" >>$RUN/resolv.static ;;
        search) echo "search $first" >>$RUN/resolv.static ;;
        esac
    done <"$RUN/net/$1"
    [ $asks_dhcp = no ] || dhcp "$1"
}

start_interface() {  # start_interface NIC: also for one that is plugged in later; once
    mkdir "$RUN/net/$1.up" 2>/dev/null || return 0
    ip link set "$1" up
    if [ -f "$RUN/net/$1" ]; then configure_interface "$1"; else dhcp "$1"; fi
}

start_network() {
    ip link set lo up
    for nic in $(interfaces); do start_interface "$nic"; done
    cat $RUN/resolv.* >/etc/resolv.conf 2>/dev/null
}
