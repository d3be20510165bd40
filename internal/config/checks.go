package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

func oneOf(allowed ...string) func(value) string {
	return func(v value) string {
		if slices.Contains(allowed, v.text) {
			return ""
		}
		return fmt.Sprintf("%q is not known, use one of: %s", v.text, strings.Join(allowed, ", "))
	}
}

func between(low, high int64) func(value) string {
	return func(v value) string {
		if v.number >= low && v.number <= high {
			return ""
		}
		return fmt.Sprintf("%d is outside %d to %d, choose a value inside", v.number, low, high)
	}
}

func checkPositive(v value) string {
	if v.duration > 0 {
		return ""
	}
	return fmt.Sprintf("%v must be longer than 0", v.duration)
}

func checkNotEmpty(v value) string {
	if v.text != "" {
		return ""
	}
	return "is empty, give a path"
}

func checkNoEmpty(v value) string {
	if slices.Contains(v.list, "") {
		return "holds an empty entry, remove it"
	}
	return ""
}

// hostPort returns the broken rule of an address, or its port.
func hostPort(s string) (port int, problem string) {
	_, p, err := net.SplitHostPort(s)
	if err != nil {
		return 0, fmt.Sprintf("%q is not host:port, write for example 127.0.0.1:50051", s)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return 0, fmt.Sprintf("port %q of %q is not a number from 0 to 65535", p, s)
	}
	return port, ""
}

func checkListenAddr(v value) string {
	_, problem := hostPort(v.text)
	return problem
}

func checkDialAddr(v value) string {
	if strings.Contains(v.text, "://") {
		return fmt.Sprintf("%q has an unknown scheme, write host:port", v.text)
	}
	port, problem := hostPort(v.text)
	if problem == "" && port == 0 {
		problem = fmt.Sprintf("%q has port 0, which only a listener can use", v.text)
	}
	if problem == "" && strings.HasPrefix(v.text, ":") {
		problem = fmt.Sprintf("%q names no host, write for example 127.0.0.1%s", v.text, v.text)
	}
	return problem
}

// dropScheme accepts addresses as the Rust original wrote them.
func dropScheme(s string) string {
	if rest, ok := strings.CutPrefix(s, "https://"); ok {
		return strings.TrimSuffix(rest, "/")
	}
	return s
}

func validHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	name := strings.TrimPrefix(strings.TrimSuffix(s, "."), "*.")
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}

func checkHostName(v value) string {
	if validHost(v.text) {
		return ""
	}
	return fmt.Sprintf("%q is neither a DNS name nor an IP address", v.text)
}

func checkServerNames(v value) string {
	for _, name := range v.list {
		if !validHost(name) {
			return fmt.Sprintf("%q is neither a DNS name nor an IP address", name)
		}
	}
	return ""
}

func checkSecretNames(v value) string {
	for _, name := range v.list {
		if name == "" || len(name) > 128 || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
			return fmt.Sprintf("%q is not the name of a secret, use capitals, digits and _", name)
		}
	}
	return ""
}
