package pluginhost

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Found is where a plugin was found.
type Found struct {
	Path     string   // of the manifest
	Shadowed []string // further manifests of that name, which are not used
}

// Find returns the manifest that a reference means. One with a slash, or that
// ends in .toml, is a path to a manifest or its directory. Any other is a name,
// looked up in ./plugins/*/ below dir and then in $XDG_DATA_HOME/rollout/plugins/*/
// (default ~/.local/share); the first that carries the name wins. An unknown name
// is [core.CodeNotFound] and lists where it was looked for.
func Find(ref, dir string, lookupEnv func(string) (string, bool)) (Found, error) {
	const op = "find plugin"
	if lookupEnv == nil {
		lookupEnv = os.LookupEnv
	}
	if strings.ContainsRune(ref, '/') || strings.HasSuffix(ref, ".toml") {
		if !filepath.IsAbs(ref) {
			ref = filepath.Join(dir, ref)
		}
		return Found{Path: ref}, nil
	}
	if msg := checkName(ref); msg != "" {
		return Found{}, core.Errorf(op, core.CodeConfigInvalid, "the plugin's name %s; or write a path with a slash", msg)
	}
	roots := pluginRoots(dir, lookupEnv)
	var found Found
	var broken error
	for _, root := range roots {
		// A malformed pattern cannot arise from a fixed one; what cannot be read is not there.
		paths, _ := filepath.Glob(filepath.Join(escapeGlob(root), "*", ManifestName))
		for _, path := range paths {
			name, err := manifestName(path)
			switch {
			case err != nil && filepath.Base(filepath.Dir(path)) == ref && broken == nil:
				broken = err
			case err != nil || name != ref:
			case found.Path == "":
				found.Path = path
			default:
				found.Shadowed = append(found.Shadowed, path)
			}
		}
	}
	switch {
	case found.Path != "":
		return found, nil
	case broken != nil:
		return Found{}, core.WithOp(op, broken)
	}
	return Found{}, core.Errorf(op, core.CodeNotFound, "no plugin named %q below %s", ref, strings.Join(roots, " or "))
}

func pluginRoots(dir string, lookupEnv func(string) (string, bool)) []string {
	roots := []string{filepath.Join(dir, "plugins")}
	data, ok := lookupEnv("XDG_DATA_HOME")
	if home, hasHome := lookupEnv("HOME"); (!ok || !filepath.IsAbs(data)) && hasHome {
		data = filepath.Join(home, ".local", "share")
	}
	if filepath.IsAbs(data) {
		roots = append(roots, filepath.Join(data, "rollout", "plugins"))
	}
	return roots
}

// escapeGlob makes a directory's name mean itself in a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// manifestName reads only the name of a manifest, broken or not in its other keys.
func manifestName(path string) (string, error) {
	data, err := readRegular(path, maxManifest)
	if err != nil {
		return "", core.Wrap("read manifest", core.CodeNotFound, err)
	}
	m, vs := parseManifest(data, path)
	if m.Name == "" {
		return "", vs.Err("read manifest")
	}
	return m.Name, nil
}
