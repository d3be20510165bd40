package cli

import (
	"embed"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// pluginTemplates are the files of a new plugin by language. {{NAME}} stands for
// the plugin's name and {{MODULE}} (MODULE in file names) for the name as an
// identifier; .txt is cut off.
//
//go:embed all:plugintemplates
var pluginTemplates embed.FS

// pluginLanguages are the languages that templates exist for, with what to run first.
var pluginLanguages = map[string]string{"python": "", "c": "make", "rust": "make", "go": "the two lines at the top of rollout-plugin.toml"}

func pluginNewCmd(t *tool) *cobra.Command {
	var lang, dir string
	c := &cobra.Command{
		Use: "new NAME", Short: "Make a directory with a working plugin",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, a []string) error {
			build, ok := pluginLanguages[lang]
			if !ok {
				return usagef("--lang: %q is not python, c, rust or go", lang)
			}
			if !pluginNameRE.MatchString(a[0]) {
				return usagef("%q is no plugin name: use a-z, 0-9 and dashes, beginning with a letter", a[0])
			}
			if dir == "" {
				dir = a[0]
			}
			if err := writePlugin(lang, a[0], dir); err != nil {
				return err
			}
			next := "rollout plugin check " + filepath.Join(dir, "rollout-plugin.toml")
			if build != "" {
				next = "in " + dir + ", " + build + "; then: " + next
			}
			return t.said(map[string]any{"plugin": a[0], "dir": dir, "next": next}, "made %s; next: %s", dir, next)
		},
	}
	c.Flags().StringVar(&lang, "lang", "python", "python, c, rust or go")
	c.Flags().StringVar(&dir, "dir", "", "the `directory` to make (default ./NAME)")
	return c
}

var pluginNameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

// writePlugin writes the files of a language into a new directory.
func writePlugin(lang, name, dir string) error {
	const op = "make plugin"
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return core.Wrap(op, core.CodeUnavailable, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return core.Errorf(op, core.CodeAlreadyExists, "%s is there already; name another --dir", dir)
		}
		return core.Wrap(op, core.CodeUnavailable, err)
	}
	module := strings.ReplaceAll(name, "-", "_")
	fill := strings.NewReplacer("{{NAME}}", name, "{{MODULE}}", module)
	root := path.Join("plugintemplates", lang)
	entries, err := pluginTemplates.ReadDir(root)
	if err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	for _, e := range entries {
		b, err := pluginTemplates.ReadFile(path.Join(root, e.Name()))
		if err == nil {
			file := filepath.Join(dir, strings.Replace(strings.TrimSuffix(e.Name(), ".txt"), "MODULE", module, 1))
			err = os.WriteFile(file, []byte(fill.Replace(string(b))), 0o644)
		}
		if err != nil {
			return core.Wrap(op, core.CodeUnavailable, err)
		}
	}
	return nil
}
