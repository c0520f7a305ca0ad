# NoCloud: what meta-data and user-data ask for. Sourced after lib.sh; call read_seed DIR.
# As cloud-init does it: host name at every boot, the rest once per instance-id.
DEFAULT_USER=debian

read_seed() {  # read_seed DIR: flattens what is there, sets $instance $host $new_instance
    instance=none host='' new_instance=yes previous=''
    : >$RUN/meta; : >$RUN/user
    [ -f "$1/meta-data" ] && flatten "$1/meta-data" $RUN/meta
    user_data=$1/user-data
    if [ -f "$user_data" ]; then
        read -r first <"$user_data"
        case $first in
        '#cloud-config'*) flatten "$user_data" $RUN/user ;;
        '#!'*) ;;
        *) echo "user-data is neither #cloud-config nor a script: ignored: $first" >&2 ;;
        esac
    fi
    read_names
    [ -f $STATE/data/instance-id ] && read -r previous <$STATE/data/instance-id
    [ "$instance" = "$previous" ] && new_instance=no
}

read_names() {
    while IFS=$TAB read -r path value; do
        case $path in
        instance-id) instance=$value ;;
        local-hostname) host=$value ;;
        hostname) [ -n "$host" ] || host=$value ;;
        esac
    done <$RUN/meta
    fqdn=''
    while IFS=$TAB read -r path value; do
        case $path in
        hostname) host=$value ;;
        fqdn) fqdn=$value ;;
        esac
    done <$RUN/user
    [ -n "$host" ] || host=${fqdn%%.*}
}

set_hostname() {  # set_hostname NAME: may hold a domain
    echo "${1%%.*}" >/proc/sys/kernel/hostname 2>/dev/null || hostname "${1%%.*}" 2>/dev/null
    echo "${1%%.*}" >/etc/hostname
    printf '127.0.0.1 localhost\n127.0.1.1 %s %s\n::1 localhost\n' "${fqdn:-$1}" "${1%%.*}" >/etc/hosts
}

add_user() {  # add_user NAME: own group, home, locked password; nothing when it exists
    [ -n "$1" ] && [ "$1" != root ] && ! grep -q "^$1:" /etc/passwd || return 0
    id=$((1000 + $(grep -c ':/home/' /etc/passwd)))
    echo "$1:x:$id:$id:$1:/home/$1:/bin/sh" >>/etc/passwd
    echo "$1:x:$id:" >>/etc/group
    echo "$1:*:19000:0:99999:7:::" >>/etc/shadow
    mkdir -p "/home/$1"
    chown "$1:$1" "/home/$1"
    chmod 755 "/home/$1"
}

add_to_group() {  # add_to_group USER GROUP
    grep -q "^$2:" /etc/group || echo "$2:x:$((300 + $(wc -l </etc/group))):" >>/etc/group
    grep -q "^$2:.*[:,]$1\(,\|$\)" /etc/group && return
    sed -i "s/^\($2:[^:]*:[^:]*:.*[^:]\)\$/\1,$1/; s/^\($2:[^:]*:[^:]*:\)\$/\1$1/" /etc/group
}

add_key() {  # add_key USER KEY; root takes every key of the seed too
    echo "$2" >>$RUN/keys/root
    [ "$1" = root ] || echo "$2" >>"$RUN/keys/$1"
}

install_keys() {
    for list in $RUN/keys/*; do
        [ -e "$list" ] || return 0
        user=${list##*/}
        home=/root
        [ "$user" = root ] || home=/home/$user
        mkdir -p -m 700 "$home/.ssh"
        sort -u "$list" >"$home/.ssh/authorized_keys"
        chmod 600 "$home/.ssh/authorized_keys"
        [ "$user" = root ] || chown -R "$user:$user" "$home/.ssh"
    done
}

set_password() {  # set_password USER PASSWORD [-e]: -e says that it is a hash already
    echo "$1:$2" | chpasswd $3
}

user_setting() {  # user_setting KEY VALUE, for $login
    case $1 in
    ssh_authorized_keys | ssh_authorized_keys/* | ssh-authorized-keys/*) add_key "$login" "$2" ;;
    sudo | sudo/*) case $2 in '' | [Ff]alse) ;; *) add_to_group "$login" sudo ;; esac ;;
    groups) for group in $(echo "$2" | tr ',' ' '); do add_to_group "$login" "$group"; done ;;
    groups/*) add_to_group "$login" "$2" ;;
    shell) [ -x "$2" ] && sed -i "s|^\($login:.*:\)[^:]*\$|\1$2|" /etc/passwd ;;
    plain_text_passwd) set_password "$login" "$2" ;;
    passwd | hashed_passwd) set_password "$login" "$2" -e ;;
    esac
}

apply_users() {
    listed=no first_user=''
    DEFAULT=''
    while IFS=$TAB read -r path value; do
        case $path in
        user | user/name) DEFAULT_USER=$value ;;
        users/*/name)
            listed=yes number=${path#users/}
            eval "login_${number%%/*}=\$value"
            add_user "$value"
            ;;
        users/*/*) listed=yes ;;
        users/*) listed=yes; [ "$value" = default ] && DEFAULT=yes || add_user "$value" ;;
        esac
    done <$RUN/user
    if [ $listed = no ] || [ "$DEFAULT" = yes ]; then
        add_user "$DEFAULT_USER"
        add_to_group "$DEFAULT_USER" sudo
        first_user=$DEFAULT_USER
    fi
    apply_user_settings
}

apply_user_settings() {  # keys are sorted, so "name" may come after what belongs to it
    while IFS=$TAB read -r path value; do
        decoded "$value"
        case $path in
        users/*/name) ;;
        users/*/*)
            number=${path#users/}; number=${number%%/*}
            eval "login=\$login_$number"
            [ -n "$login" ] && user_setting "${path#users/*/}" "$text"
            ;;
        ssh_authorized_keys | ssh_authorized_keys/*) add_key "${first_user:-root}" "$text" ;;
        password) set_password "${first_user:-root}" "$text" ;;
        ssh_pwauth) echo "$text" >$STATE/data/ssh_pwauth ;;
        chpasswd/list) echo "$text" | while read -r entry; do [ -n "$entry" ] && echo "$entry" | chpasswd; done ;;
        chpasswd/list/*) echo "$text" | chpasswd ;;
        chpasswd/users/*/password) set_chpasswd_user "${path%/password}" "$text" ;;
        esac
    done <$RUN/user
    while IFS=$TAB read -r path value; do
        case $path in public-keys* | public_keys*) add_key "${first_user:-root}" "$value" ;; esac
    done <$RUN/meta
}

set_chpasswd_user() {  # set_chpasswd_user chpasswd/users/N PASSWORD
    name=$(grep "^$1/name$TAB" $RUN/user | cut -f2)
    case $(grep "^$1/type$TAB" $RUN/user | cut -f2) in
    hash) set_password "$name" "$2" -e ;;
    *) set_password "$name" "$2" ;;
    esac
}

file_setting() {  # file_setting N KEY: sets $text
    decoded "$(sed -n "s|^write_files/$1/$2$TAB||p" $RUN/user)"
}

apply_write_files() {
    for number in $(sed -n "s|^write_files/\([0-9]*\)/path$TAB.*|\1|p" $RUN/user); do
        file_setting "$number" path; target=$text
        file_setting "$number" encoding; encoding=$text
        file_setting "$number" append; append=$text
        file_setting "$number" content
        mkdir -p "${target%/*}"
        case $append in [Tt]rue | yes) ;; *) : >"$target" ;; esac
        case $encoding in
        b64 | base64) printf '%s' "$text" | base64 -d >>"$target" ;;
        gz+b64 | gzip+b64 | gz+base64 | gzip+base64) printf '%s' "$text" | base64 -d | gunzip >>"$target" ;;
        *) printf '%s' "$text" >>"$target" ;;
        esac
        file_setting "$number" permissions; chmod "${text:-0644}" "$target"
        file_setting "$number" owner; [ -z "$text" ] || chown "$text" "$target"
    done
}

write_commands() {  # write_commands KEY OUT: runcmd or bootcmd as a shell script
    current=''
    : >"$2"
    while IFS=$TAB read -r path value; do
        case $path in
        "$1"/*/*)  # a list: one argument a line
            number=${path#"$1"/}; number=${number%%/*}
            [ "$number" = "$current" ] || printf '\n' >>"$2"
            current=$number
            decoded "$value"
            printf " '%s'" "$(printf '%s' "$text" | sed "s/'/'\\\\''/g")" >>"$2"
            ;;
        "$1"/*) current=''; decoded "$value"; printf '\n%s\n' "$text" >>"$2" ;;
        esac
    done <$RUN/user
    echo >>"$2"
}

apply_seed() {  # once per instance; leaves the commands for run_commands
    [ $new_instance = yes ] || return 0
    mkdir -p $RUN/keys
    : >/root/.ssh/authorized_keys
    apply_users
    install_keys
    apply_write_files
    write_commands runcmd $STATE/data/runcmd
    case $first in '#!'*) cp "$user_data" $STATE/data/runcmd ;; esac
    rm -f $STATE/data/boot-finished /etc/dropbear/host_key
    echo "$instance" >$STATE/data/instance-id
}

have_address() { ip -o addr show scope global | grep -q . ; }

run_commands() {  # in the background: runcmd of a new instance, once the network is there
    if [ $new_instance = yes ] && [ -s $STATE/data/runcmd ]; then
        for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do have_address && break; sleep 1; done
        chmod 700 $STATE/data/runcmd
        read -r first <$STATE/data/runcmd
        case $first in
        '#!'*) $STATE/data/runcmd ;;
        *) sh $STATE/data/runcmd ;;
        esac >>/var/log/cloud-init-output.log 2>&1 </dev/null
        mark "runcmd finished with $?"
    fi
    read -r up _ </proc/uptime
    echo "$up" >$STATE/data/boot-finished
    : >$RUN/finished
}
