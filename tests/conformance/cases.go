package conformance

import "slices"

// cases are cases by name and text, the same in C and in Go.
func cases(pairs ...string) (all []Case) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Case{Name: pairs[i], C: pairs[i+1]})
	}
	return all
}

// goOnly are cases of Go alone.
func goOnly(why string, pairs ...string) (all []Case) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Case{Name: pairs[i], C: absent, Go: pairs[i+1], Why: why})
	}
	return all
}

// cOnly are cases of C alone.
func cOnly(why string, pairs ...string) (all []Case) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Case{Name: pairs[i], C: pairs[i+1], Go: absent, Why: why})
	}
	return all
}

func join(all ...[]Case) []Case { return slices.Concat(all...) }

// protocolVersion is one of the two.
type protocolVersion struct {
	name    string
	version uint16
}

var bothVersions = []protocolVersion{{"1.2", tls12}, {"1.3", tls13}}

func (v protocolVersion) named(name string) string { return v.name + " " + name }

// eachVersion are cases for both versions.
func eachVersion(all ...Case) (both []Case) {
	for _, v := range bothVersions {
		for _, c := range all {
			c.Name = v.named(c.Name)
			both = append(both, c)
		}
	}
	return both
}

// either are two alternatives of a case.
func either(c Case, one, other string) []Case {
	a, b := c, c
	a.C, b.C = one, other
	return []Case{a, b}
}

var protocols = []uint16{tls12, tls13}

func versionText(version uint16) string {
	if version == tls12 {
		return "1.2"
	}
	return "1.3"
}

// versioned is the name of a case that is shown for both versions.
func versioned(version uint16, name string) string { return versionText(version) + " " + name }
