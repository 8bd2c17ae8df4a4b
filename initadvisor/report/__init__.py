"""How is it told? The terminal report, the HTML file and the figures, all from one frozen `Evidence`."""
