package conformance

var getFacts = []Fact{}
