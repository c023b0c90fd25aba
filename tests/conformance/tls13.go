package conformance

var tls13Facts = []Fact{}
