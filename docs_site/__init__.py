"""The documentation as a site: `make docs` puts the pages together, builds them and looks at what came out."""
