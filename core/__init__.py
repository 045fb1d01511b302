"""What the scripts share. A first reading may skip this folder."""
