"""What came out? The summary, the site, JUnit and Markdown."""
