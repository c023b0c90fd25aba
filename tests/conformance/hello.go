package conformance

var helloFacts = []Fact{}
