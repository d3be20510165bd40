package main

import (
	"regexp"
	"strings"
)

// forms replace what differs from run to run by its form, on the page and in the
// output alike. The order matters: a time holds what looks like a duration.
var forms = []struct {
	re   *regexp.Regexp
	form string
}{
	{regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`), "<ulid>"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?`), "<time>"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d\.\d+\b`), "<time>"},
	{regexp.MustCompile(`\b[0-9a-f]{8,64}\b`), "<hex>"},
	{regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}:\d+\b`), "<address>"},
	{regexp.MustCompile(`\b1\d{9}\b`), "<seconds>"},
	{regexp.MustCompile(`\b(pid[ =]|[a-z]+_ms=|"(pid|[a-z]+_ms|epoch)":)\d+(\.\d+)?`), "$1<n>"},
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+(\.\d+)? ?(ns|us|µs|ms|s|m|h)\b`), "<duration>"},
	{regexp.MustCompile(`\b\d+(\.\d+)?/s\b`), "<rate>"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ?(bytes|B|KiB|MiB|GiB)\b`), "<size>"},
	{regexp.MustCompile(`\b(version[ =]|version":")[^\s"]+`), "$1<version>"},
}

var (
	number = regexp.MustCompile(`\d+(\.\d+)?`)
	spaces = regexp.MustCompile(`[ \t]+`)
)

// mask writes a line in the form in which it is compared.
func mask(line string, numbers bool) string {
	for _, f := range forms {
		line = f.re.ReplaceAllString(line, f.form)
	}
	if numbers {
		line = number.ReplaceAllString(line, "<n>")
	}
	return strings.TrimSpace(spaces.ReplaceAllString(line, " "))
}

// pattern is what a page shows as an expression for the masked output.
type pattern struct {
	numbers     bool
	whole, head *regexp.Regexp
}

func newPattern(want []string, numbers bool) *pattern {
	var b strings.Builder
	for _, line := range want {
		line = mask(line, numbers)
		if line == "..." {
			b.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		for i, part := range strings.Split(line, "...") {
			if i > 0 {
				b.WriteString(`[^\n]*`)
			}
			b.WriteString(regexp.QuoteMeta(part))
		}
		b.WriteString(`\n`)
	}
	return &pattern{numbers, regexp.MustCompile(`\A` + b.String() + `\z`), regexp.MustCompile(`\A` + b.String())}
}

// masked writes output as lines in the form in which they are compared, without the
// empty lines at its end.
func (p *pattern) masked(output string) string {
	output = strings.TrimRight(output, " \n")
	if output == "" {
		return ""
	}
	lines := strings.Split(output, "\n")
	for i := range lines {
		lines[i] = mask(lines[i], p.numbers)
	}
	return strings.Join(lines, "\n") + "\n"
}

// matches reports whether the output is what the page shows.
func (p *pattern) matches(output string) bool { return p.whole.MatchString(p.masked(output)) }

// begins reports whether the output begins with what the page shows.
func (p *pattern) begins(output string) bool { return p.head.MatchString(p.masked(output)) }
