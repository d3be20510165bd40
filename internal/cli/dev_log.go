package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// readEvents prints events, readable for people, as they are for programs.
func (d *devRun) readEvents(p *part, r io.Reader) {
	eachLine(r, func(line []byte) {
		var ev core.Event
		if err := json.Unmarshal(line, &ev); err != nil {
			d.line(p.name, cell(string(line)))
			return
		}
		if ev.Topic == core.TopicCoordinatorStarted {
			if addr, ok := ev.Attrs["addr"].(string); ok {
				p.started <- addr
			}
		}
		if d.t.json {
			d.out.Lock()
			defer d.out.Unlock()
			fmt.Fprintf(d.t.stdout, "%s\n", line)
			return
		}
		d.line(p.name, eventText(ev))
	})
}

// eventText tells an event in one line.
func eventText(ev core.Event) string {
	words := []string{ev.Topic}
	if ev.Topic == "" {
		words[0] = string(ev.Kind)
	}
	if ev.PluginID != "" {
		words = append(words, ev.PluginID)
	}
	if ev.Message != "" {
		words = append(words, cell(ev.Message))
	}
	if ev.WorkerID != "" {
		words = append(words, "worker="+ev.WorkerID)
	}
	attrs := map[string]any{}
	for k, v := range ev.Attrs {
		switch text, isText := v.(string); {
		case k == "inventory":
		case k == "digest" && isText:
			attrs[k] = text[:min(len(text), 12)]
		default:
			attrs[k] = v
		}
	}
	return strings.Join(append(words, pairs(attrs)...), " ")
}

// pairs writes fields as key=value, sorted.
func pairs(fields map[string]any) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		text, isText := fields[k].(string)
		if !isText || text == "" || strings.ContainsAny(text, " \"=") {
			b, err := json.Marshal(fields[k])
			if err != nil {
				continue // what was decoded can be encoded
			}
			text = string(b)
		}
		out = append(out, k+"="+cell(text))
	}
	return out
}

// readLog prints log lines, and returns what the last said.
func (d *devRun) readLog(p *part, r io.Reader) (last string) {
	eachLine(r, func(line []byte) {
		level, text := logText(line)
		if !strings.HasPrefix(text, "see ") { // where to read more is not why
			last = text
		}
		if quiet := level == "info" || level == "debug"; !quiet || d.t.logLevel != "" {
			d.line(p.name, strings.TrimSpace(level+" "+text))
		}
	})
	return last
}

// logText tells a log line without its time, which every line of dev has.
func logText(line []byte) (level, text string) {
	var fields map[string]any
	if err := json.Unmarshal(line, &fields); err != nil {
		return "", cell(string(line))
	}
	level, _ = fields["level"].(string)
	msg, _ := fields["msg"].(string)
	delete(fields, "ts")
	delete(fields, "level")
	delete(fields, "msg")
	return level, strings.Join(append([]string{cell(msg)}, pairs(fields)...), " ")
}

func eachLine(r io.Reader, each func([]byte)) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			each(bytes.TrimSuffix(line, []byte("\n")))
		}
		if err != nil {
			return // the program has closed it
		}
	}
}

// line prints one line of a part. Programs get events alone on standard output.
func (d *devRun) line(name, text string) {
	out := d.t.stdout
	if d.t.json {
		out = d.t.stderr
	}
	d.out.Lock()
	defer d.out.Unlock()
	fmt.Fprintf(out, "%s %-11s %s\n", time.Now().Format("15:04:05.000"), name, text)
}
