package conformance

var serialFacts = []Fact{}
