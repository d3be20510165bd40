package pluginhost

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"
)

var (
	nameRE     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	versionRE  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+-]*$`)
	moduleRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
	symbolRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	sha256RE   = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	templateRE = regexp.MustCompile(`\{[^{}]*\}|<[^<>]*>`)
)

func checkName(s string) string {
	if !nameRE.MatchString(s) || len(s) > maxName {
		return fmt.Sprintf("is %q; use up to %d letters a-z, digits and dashes, beginning with a letter or digit", cut(s), maxName)
	}
	return ""
}

func checkVersion(s string) string {
	if !versionRE.MatchString(s) || len(s) > maxName {
		return fmt.Sprintf(`is %q; use up to %d letters, digits, dots, dashes and plus signs, such as "0.1.0"`, cut(s), maxName)
	}
	return ""
}

func checkText(s string, limit int) string {
	if len(s) > limit || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Sprintf("is %q; use up to %d bytes without control characters", cut(s), limit)
	}
	return ""
}

func checkPath(s string) string {
	if s == "" || len(s) > 1024 || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Sprintf("is %q; write a path of up to 1024 bytes without control characters", cut(s))
	}
	return ""
}

func checkAbs(s string) string {
	if msg := checkPath(s); msg != "" || filepath.IsAbs(s) {
		return msg
	}
	return fmt.Sprintf("has %q; write absolute paths", cut(s))
}

func checkHost(s string) string {
	if s == "" || len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Sprintf("has %q; write host names or addresses", cut(s))
	}
	return ""
}

func checkEach(ss []string, check func(string) string) string {
	for _, s := range ss {
		if msg := check(s); msg != "" {
			return msg
		}
	}
	return ""
}

func checkPythonMin(s string) string {
	if v, ok := parseVersion(s); !ok || v[0] != 3 || v[1] > 1000 {
		return fmt.Sprintf(`is %q; write major and minor version, such as "3.11"`, cut(s))
	}
	return ""
}

func checkSymbol(s string) string {
	if !symbolRE.MatchString(s) || len(s) > 255 {
		return fmt.Sprintf("is %q; write the name of a function: letters, digits and underscores", cut(s))
	}
	return ""
}

func checkModule(s string) string {
	if !moduleRE.MatchString(s) || len(s) > 255 {
		return fmt.Sprintf("is %q; write the name of a Python module as import takes it, without .py and slashes", cut(s))
	}
	return ""
}

func checkSHA256(s string) string {
	if !sha256RE.MatchString(s) {
		return fmt.Sprintf("is %q; write the 64 hexadecimal digits that sha256sum prints", cut(s))
	}
	return ""
}

func checkCommand(ss []string) string {
	if len(ss) == 0 || ss[0] == "" {
		return "is empty; write the program and its arguments"
	}
	for _, s := range ss {
		if strings.ContainsRune(s, 0) {
			return "has an argument with a zero byte; remove it"
		}
	}
	return ""
}

func checkEnvName(s string) string {
	if !symbolRE.MatchString(s) {
		return fmt.Sprintf("has %q; write names of environment variables", cut(s))
	}
	return ""
}

// templateFields are what the original fills into a socket template.
var templateFields = []string{"plugin", "plugin_id", "name", "id", "pid", "worker_id", "run_id", "instance"}

// checkTemplate checks the original's socket template, which nothing is made of.
func checkTemplate(s string) string {
	if msg := checkPath(s); msg != "" || len(s) > 256 {
		return fmt.Sprintf("is %q; it is not used, remove it", cut(s))
	}
	if slices.Contains(strings.Split(s, "/"), "..") {
		return fmt.Sprintf("is %q; it must not lead upwards, and is not used: remove it", cut(s))
	}
	for _, f := range templateRE.FindAllString(s, -1) {
		if !slices.Contains(templateFields, f[1:len(f)-1]) {
			return fmt.Sprintf("has the unknown field %s; it is not used, remove it", cut(f))
		}
	}
	return ""
}

// plain turns TOML values into what JSON can carry: times become text. It returns
// what is wrong with a value that JSON has not.
func plain(v any) (any, string) {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			c, bad := plain(e)
			if bad != "" {
				return nil, bad
			}
			out[k] = c
		}
		return out, ""
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			c, bad := plain(e)
			if bad != "" {
				return nil, bad
			}
			out[i] = c
		}
		return out, ""
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Sprintf("holds %v, which JSON cannot carry; write a finite number or a string", v)
		}
		return v, ""
	case time.Time:
		return v.Format(time.RFC3339Nano), ""
	case toml.LocalDate:
		return v.String(), ""
	case toml.LocalTime:
		return v.String(), ""
	case toml.LocalDateTime:
		return v.String(), ""
	}
	return v, ""
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

func cut(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
