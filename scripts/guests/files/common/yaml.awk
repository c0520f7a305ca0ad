# Flatten a YAML or JSON document to lines "path<TAB>value": users/0/name<TAB>ops
# Values are written so that printf %b gives them back (\\ \n \t escaped).
# Covers what people and PyYAML write: block and flow style, quoted and folded
# scalars, | and > blocks, anchors and aliases. Tags are skipped, "? key" is not read.

function blank(text) { return text ~ /^[ \t]*(#.*)?$/ }
function indent_of(text) { match(text, /^ */); return RLENGTH }
function trim(text) { sub(/^[ \t]+/, "", text); sub(/[ \t]+$/, "", text); return text }
function spaces(count) { return sprintf("%" count "s", "") }
function skip_blank() { while (at <= last && (blank(line[at]) || line[at] ~ /^(---|\.\.\.|%)/)) at++ }

function emit(path, value) {
    gsub(/\\/, "\\\\", value); gsub(/\n/, "\\n", value); gsub(/\t/, "\\t", value)
    out_path[++outs] = path; out_value[outs] = value
}

# --- characters: quoted scalars, flow collections; "rest" is what is left of the text
function more() {  # take the next line into "rest", folding the line break
    gap = ""
    at++
    while (at <= last && line[at] ~ /^[ \t]*$/) { gap = gap "\n"; at++ }
    if (at > last) { ended = 1; return 0 }
    rest = trim(line[at])
    return 1
}

function utf8(code) {
    if (code < 128) return sprintf("%c", code)
    if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
    if (code < 65536) return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
    return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64, 128 + int(code / 64) % 64, 128 + code % 64)
}

function hex(text,   i, value) {
    for (i = 1; i <= length(text); i++) value = value * 16 + index("0123456789abcdef", tolower(substr(text, i, 1))) - 1
    return value + 0
}

function escape_of(   c, width, code) {  # "rest" starts behind the backslash
    c = substr(rest, 1, 1); rest = substr(rest, 2)
    width = c == "x" ? 2 : c == "u" ? 4 : c == "U" ? 8 : 0
    if (width) {
        code = hex(substr(rest, 1, width)); rest = substr(rest, width + 1)
        if (code >= 55296 && code < 56320 && rest ~ /^\\u[dD][c-fC-F]/) {  # JSON writes astral characters as two
            code = 65536 + (code - 55296) * 1024 + hex(substr(rest, 3, 4)) - 56320; rest = substr(rest, 7)
        }
        return utf8(code)
    }
    if (c in escapes) return escapes[c]
    return c
}

function quoted(quote,   value, cut) {  # "rest" starts behind the opening quote
    value = ""
    while (!ended) {
        if (match(rest, quote == "'" ? "'" : "[\"\\\\]")) {
            cut = substr(rest, RSTART, 1)
            value = value substr(rest, 1, RSTART - 1); rest = substr(rest, RSTART + 1)
            if (cut == "\\" && rest == "") { more(); value = value gap }
            else if (cut == "\\") value = value escape_of()
            else if (quote == "'" && substr(rest, 1, 1) == "'") { value = value "'"; rest = substr(rest, 2) }
            else return value
        } else {
            value = value rest; sub(/[ \t]+$/, "", value)
            more(); value = value (gap == "" ? " " : gap)
        }
    }
    return value
}

function flow_space() {
    rest = trim(rest)
    while (!ended && (rest == "" || rest ~ /^#/)) if (more()) rest = trim(rest)
}

function flow_plain(   value) {  # up to , ] } or ": ", which may stand in a later line
    value = ""
    while (!ended) {
        if (match(rest, /[],[{}]|:([ ,}]|$)|(^|[ \t])#/)) {
            value = value substr(rest, 1, RSTART - 1); rest = substr(rest, RSTART)
            if (rest !~ /^[ \t]?#/) break
            rest = ""
        } else { value = value rest; rest = "" }
        if (more()) value = value (gap == "" ? " " : gap)
    }
    return trim(value)
}

function flow_scalar(   c) {
    c = substr(rest, 1, 1)
    if (c == "\"" || c == "'") { rest = substr(rest, 2); return quoted(c) }
    return flow_plain()
}

function flow_leaf(path,   mark, value) {
    mark = substr(rest, 1, 1)
    value = flow_scalar()
    if (mark == "*") copy_anchor(substr(value, 2), path)
    else emit(path, mark !~ /["']/ && value ~ /^(~|null|Null|NULL)$/ ? "" : value)
}

function flow(path,   open, close_, key, count) {
    flow_space()
    while (rest ~ /^[&!]/) {
        match(rest, /^[^ \t]+/)
        if (rest ~ /^&/) anchor[substr(rest, 2, RLENGTH - 1)] = path
        rest = substr(rest, RLENGTH + 1); flow_space()
    }
    open = substr(rest, 1, 1)
    if (open != "{" && open != "[") { flow_leaf(path); return }
    rest = substr(rest, 2); close_ = open == "{" ? "}" : "]"; count = 0
    while (!ended) {
        flow_space()
        if (substr(rest, 1, 1) == close_) { rest = substr(rest, 2); return }
        if (rest ~ /^[],:}]/) { rest = substr(rest, 2); continue }
        if (open == "[") { flow(path "/" count++); continue }
        key = flow_scalar(); flow_space(); sub(/^:/, "", rest); flow_space()
        if (rest ~ /^[,}]/) emit(path "/" key, ""); else flow(path "/" key)
    }
}

# --- lines: block style
function block_scalar(style, indent, path,   value, width, text, fold, previous, count) {
    at++; fold = style ~ /^>/; width = 0; value = ""; previous = ""; count = 0
    while (at <= last && (line[at] ~ /^ *$/ || indent_of(line[at]) > indent)) {
        if (!width && line[at] !~ /^ *$/) width = match(style, /[1-9]/) ? indent + substr(style, RSTART, 1) : indent_of(line[at])
        text = substr(line[at], width + 1); at++
        if (!count++) value = text
        else if (!fold || text == "" || text ~ /^[ \t]/ || previous ~ /^[ \t]/) value = value "\n" text
        else value = value (previous == "" ? "" : " ") text
        previous = text
    }
    if (style !~ /\+/) sub(/\n+$/, "", value)
    if (style !~ /-/ && count) value = value "\n"
    emit(path, value)
}

function plain(text, indent, path,   value, gap_) {
    value = text; at++; gap_ = ""
    sub(/[ \t]#.*$/, "", value)
    while (at <= last && (line[at] ~ /^[ \t]*$/ || indent_of(line[at]) > indent)) {
        if (line[at] ~ /^[ \t]*$/) gap_ = gap_ "\n"
        else if (line[at] ~ /^[ \t]*#/) break
        else { value = value (gap_ == "" ? " " : gap_) trim(line[at]); gap_ = "" }
        at++
    }
    value = trim(value)
    emit(path, value ~ /^(~|null|Null|NULL)$/ ? "" : value)
}

function copy_anchor(name, path,   i, from, count) {
    from = anchor[name]; count = outs
    for (i = 1; i <= count; i++)
        if (out_path[i] == from || index(out_path[i], from "/") == 1) {
            out_path[++outs] = path substr(out_path[i], length(from) + 1); out_value[outs] = out_value[i]
        }
}

# text: behind "key:" or "-"; indent: of the line it stands in; same: a list may stand at the same indent
function value_of(text, indent, path, same,   first) {
    text = trim(text)
    while (text ~ /^[&!]/) {
        if (text ~ /^&/) { match(text, /^[^ \t]+/); anchor[substr(text, 2, RLENGTH - 1)] = path }
        sub(/^[^ \t]+[ \t]*/, "", text)
    }
    first = substr(text, 1, 1)
    if (text == "" || first == "#") {
        at++; skip_blank()
        if (at <= last && (indent_of(line[at]) > indent || (same && indent_of(line[at]) == indent && line[at] ~ /^ *-( |$)/))) node(path)
        else emit(path, "")
    } else if (first == "*") { copy_anchor(substr(text, 2), path); at++ }
    else if (text ~ /^[|>][-+0-9]*([ \t]+#.*)?$/) block_scalar(text, indent, path)
    else if (first ~ /["'{[]/) { rest = text; ended = 0; flow(path); at++ }
    else plain(text, indent, path)
}

function node(path,   indent) {
    skip_blank()
    if (at > last) return
    indent = indent_of(line[at])
    if (line[at] ~ /^ *-( |$)/) sequence(indent, path)
    else if (key_length(line[at])) mapping(indent, path)
    else value_of(line[at], indent - 1, path, 0)
}

function sequence(indent, path,   count, text, pad) {
    count = 0
    for (skip_blank(); at <= last && indent_of(line[at]) == indent && line[at] ~ /^ *-( |$)/; skip_blank()) {
        text = substr(line[at], indent + 2); pad = indent + 1 + indent_of(text)
        if (text ~ /^ *(- |-$)/ || key_length(text)) { line[at] = spaces(pad) trim(text); node(path "/" count++) }
        else value_of(text, indent, path "/" count++, 0)
    }
}

# Length of "   key:" at the start of the text, 0 when no mapping entry starts there.
function key_length(text) {
    if (text ~ /^ *[[{]/) return 0
    if (match(text, /^ *"([^"\\]|\\.)*" *:( |\t|$)/) || match(text, /^ *'([^']|'')*' *:( |\t|$)/)) return RLENGTH
    if (text ~ /^ *["'&*!|>%@]/) return 0
    if (match(text, /^[^#]*[^ #]:( |\t|$)/)) { match(text, /: |:\t|:$/); return RSTART }
    return 0
}

function mapping(indent, path,   width, key, quote) {
    for (skip_blank(); at <= last && indent_of(line[at]) == indent && (width = key_length(line[at])); skip_blank()) {
        key = trim(substr(line[at], 1, width)); sub(/ *:$/, "", key)
        quote = substr(key, 1, 1)
        if (quote == "\"" || quote == "'") key = substr(key, 2, length(key) - 2)
        value_of(substr(line[at], width + 1), indent, path (path == "" ? "" : "/") key, 1)
    }
}

BEGIN {
    escapes["n"] = "\n"; escapes["t"] = "\t"; escapes["r"] = "\r"; escapes["0"] = ""; escapes["e"] = "\033"
    escapes["a"] = "\a"; escapes["b"] = "\b"; escapes["f"] = "\f"; escapes["v"] = "\v"; escapes["_"] = " "
}
{ sub(/\r$/, ""); line[NR] = $0 }
END {
    last = NR; at = 1
    node("")
    for (i = 1; i <= outs; i++) { sub(/^\//, "", out_path[i]); print out_path[i] "\t" out_value[i] }
}
