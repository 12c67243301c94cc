// Package conflate has the names that the linter asks for to mend a dashboard by itself, which it is
// never told to do here. What merges JSON for it can read files from three clouds.
package conflate

import "errors"

var errWithout = errors.New("this linter is built without --fix")

type Conflate struct{}

func New() *Conflate {
	return &Conflate{}
}

func (*Conflate) AddData(...[]byte) error {
	return errWithout
}

func (*Conflate) MarshalJSON() ([]byte, error) {
	return nil, errWithout
}
