package pluginhost

import "sync"

// stopOnce runs a stop once and gives its outcome to everyone who asks.
type stopOnce struct {
	once sync.Once
	err  error // written inside once
}

func (s *stopOnce) do(stop func() error) error {
	s.once.Do(func() { s.err = stop() })
	return s.err
}
