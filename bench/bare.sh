#!/usr/bin/env bash
# What bench/boot.py is compared with: the same guests with virsh, qemu-img and genisoimage alone.
#   bare.sh up COUNT IMAGE KEY DOMAIN_XML DIRECTORY    until each guest answers on ssh
#   bare.sh down COUNT DIRECTORY
# DOMAIN_XML has @NAME@, @UUID@, @MAC@, @ROOT@, @SEED@ and @NETWORK@ where the guests differ.
set -euo pipefail

network=bare
subnet=10.250.7

up() {
    local count=$1 image=$2 key=$3 xml=$4 directory=$5 number
    mkdir -p "$directory"
    cat > "$directory/network.xml" <<EOF
<network><name>$network</name><forward mode='nat'/><bridge name='barebr' stp='off' delay='0'/>
<ip address='$subnet.1' netmask='255.255.255.0'><dhcp><range start='$subnet.2' end='$subnet.254'/></dhcp></ip></network>
EOF
    virsh -q net-define "$directory/network.xml" > "$directory/log"
    virsh -q net-start "$network" >> "$directory/log"
    cp "$image" "$directory/base.qcow2"
    for ((number = 1; number <= count; number++)); do start "$number" "$key" "$xml" "$directory"; done
    for ((number = 1; number <= count; number++)); do log_in "$number" "$key"; done
}

start() {
    local number=$1 key=$2 xml=$3 place=$4/$1
    mkdir "$place"
    qemu-img create -q -f qcow2 -F qcow2 -b "$4/base.qcow2" "$place/root.qcow2"
    printf 'instance-id: bare-%s\nlocal-hostname: bare-%s\n' "$number" "$number" > "$place/meta-data"
    printf '#cloud-config\nssh_authorized_keys:\n  - %s\n' "$(cat "$key.pub")" > "$place/user-data"
    genisoimage -quiet -V cidata -J -r -o "$place/seed.iso" "$place/user-data" "$place/meta-data" 2>> "$4/log"
    sed -e "s|@NAME@|bare-$number|" -e "s|@UUID@|$(cat /proc/sys/kernel/random/uuid)|" -e "s|@MAC@|$(mac "$number")|" \
        -e "s|@ROOT@|$place/root.qcow2|" -e "s|@SEED@|$place/seed.iso|" -e "s|@NETWORK@|$network|" "$xml" \
        > "$place/domain.xml"
    virsh -q define "$place/domain.xml" >> "$4/log"
    virsh -q start "bare-$number" >> "$4/log"
}

mac() {
    printf '52:54:00:ba:5e:%02x' "$1"
}

log_in() {
    local number=$1 key=$2 address=
    until [ -n "$address" ]; do
        address=$(virsh -q net-dhcp-leases "$network" "$(mac "$number")" | awk '{print $5}' | cut -d/ -f1)
        [ -n "$address" ] || sleep 0.1
    done
    until ssh -i "$key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
        -o BatchMode=yes -o ConnectTimeout=3 "root@$address" hostname 2> /dev/null; do sleep 0.1; done
}

down() {
    local count=$1 directory=$2 number
    for ((number = 1; number <= count; number++)); do
        virsh -q destroy "bare-$number" > /dev/null 2>&1 || true
        virsh -q undefine --nvram "bare-$number" > /dev/null 2>&1 || true
    done
    virsh -q net-destroy "$network" > /dev/null 2>&1 || true
    virsh -q net-undefine "$network" > /dev/null 2>&1 || true
    rm -rf "$directory"
}

export LIBVIRT_DEFAULT_URI=qemu:///system
"$@"
