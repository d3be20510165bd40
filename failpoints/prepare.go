package failpoints

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.etcd.io/gofail/code"
)

// Modules whose versions meet in the generated go.mod.
const (
	boltModule = "go.etcd.io/bbolt"
	failModule = "go.etcd.io/gofail"
)

// Prepare fills the empty directory out with a bbolt whose failpoints are on and
// with go.mod and go.sum for the module at root, and returns the path of that
// go.mod. The names of the failpoints that were turned on come with it. Context
// cancellation stops the go commands that it runs.
func Prepare(ctx context.Context, root, out string) (modfile string, points []string, err error) {
	src, err := moduleDir(ctx, root, boltModule)
	if err != nil {
		return "", nil, err
	}
	// gofail names its generated package after the directory.
	bolt := filepath.Join(out, "bbolt")
	if points, err = copyEnabled(src, bolt); err != nil {
		return "", nil, err
	}
	modfile = filepath.Join(out, "go.mod")
	if err := writeModfile(ctx, root, bolt, modfile); err != nil {
		return "", nil, err
	}
	return modfile, points, nil
}

// moduleDir is where the module cache keeps the version that root requires. A
// module that is not there yet is downloaded, as a build would.
func moduleDir(ctx context.Context, root, module string) (string, error) {
	out, err := goCommand(ctx, root, "mod", "download", "-json", module)
	if err != nil {
		return "", err
	}
	var found struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return "", err
	}
	if found.Dir == "" {
		return "", fmt.Errorf("the module cache has no %s", module)
	}
	return found.Dir, nil
}

// copyEnabled copies the module's Go files and go.mod from src to dst, tests left
// out, and turns the failpoints of its first package on.
func copyEnabled(src, dst string) ([]string, error) {
	var points []string
	if err := os.MkdirAll(dst, 0o700); err != nil {
		return nil, err
	}
	err := filepath.WalkDir(src, func(name string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(dst, rel), 0o700)
		}
		if rel != "go.mod" && (!strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go")) {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if filepath.Dir(rel) == "." && strings.HasSuffix(rel, ".go") {
			found, err := enable(&data, filepath.Join(dst, strings.TrimSuffix(rel, ".go")+".fail.go"))
			if err != nil {
				return fmt.Errorf("failpoints of %s: %w", rel, err)
			}
			points = append(points, found...)
		}
		return os.WriteFile(filepath.Join(dst, rel), data, 0o600)
	})
	return points, err
}

// enable replaces the source by one with its failpoints on, writes the variables
// that it needs to binding, and returns their names.
func enable(source *[]byte, binding string) ([]string, error) {
	var rewritten bytes.Buffer
	found, err := code.ToFailpoints(&rewritten, bytes.NewReader(*source))
	if err != nil || len(found) == 0 {
		return nil, err
	}
	*source = rewritten.Bytes()
	var vars bytes.Buffer
	if err := code.NewBinding("bbolt", found).Write(&vars); err != nil {
		return nil, err
	}
	names := make([]string, len(found))
	for i, point := range found {
		names[i] = point.Name()
	}
	return names, os.WriteFile(binding, vars.Bytes(), 0o600)
}

// writeModfile writes root's go.mod with bbolt replaced and gofail required, and
// the sums of both modules beside it.
func writeModfile(ctx context.Context, root, bolt, modfile string) error {
	var sums []byte
	for _, dir := range []string{root, filepath.Join(root, "failpoints")} {
		data, err := os.ReadFile(filepath.Join(dir, "go.sum"))
		if err != nil {
			return err
		}
		sums = append(sums, data...)
	}
	if err := os.WriteFile(strings.TrimSuffix(modfile, ".mod")+".sum", sums, 0o600); err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(modfile, mod, 0o600); err != nil {
		return err
	}
	version, err := required(ctx, filepath.Join(root, "failpoints"), failModule)
	if err != nil {
		return err
	}
	_, err = goCommand(ctx, root, "mod", "edit",
		"-require="+failModule+"@"+version, "-replace="+boltModule+"="+bolt, modfile)
	return err
}

// required is the version of module that the go.mod in dir asks for.
func required(ctx context.Context, dir, module string) (string, error) {
	out, err := goCommand(ctx, dir, "mod", "edit", "-json")
	if err != nil {
		return "", err
	}
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal([]byte(out), &mod); err != nil {
		return "", err
	}
	for _, r := range mod.Require {
		if r.Path == module {
			return r.Version, nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", dir, module)
}

// goCommand runs the go tool in dir and returns its standard output.
func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
