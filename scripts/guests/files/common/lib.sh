# Shared by the tiny guest and the container. Sourced; needs busybox ash.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
STATE=/var/lib/cloud        # survives reboots
RUN=/run/guest              # one boot
mkdir -p $STATE/data $RUN

mark() {  # mark TEXT: one line with the uptime on the console and in the boot log
    read -r up _ </proc/uptime
    echo "MARK $up $*" >>$RUN/marks
    [ -w /dev/console ] && echo "MARK $up $*" >/dev/console
}

flatten() {  # flatten FILE OUT: YAML or JSON to lines path<TAB>value
    awk -f /usr/lib/guest/yaml.awk "$1" >"$2"
}

decoded() {  # decoded VALUE: sets $text; undoes the escapes of yaml.awk, keeps trailing newlines
    case $1 in
    *\\*) text=$(printf '%b.' "$1"); text=${text%.} ;;
    *) text=$1 ;;
    esac
}

TAB=$(printf '\t')
