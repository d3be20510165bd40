// Package mainjob tries the main job with the real programs: a file of completions
// scored by plugins across workers, while workers, plugins and the coordinator are
// killed, stopped and started again. It holds tests only.
package mainjob
