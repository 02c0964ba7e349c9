import java.sql.DriverManager;
import java.sql.SQLException;

/** Logs in with the JDBC URL of the first argument. */
public class Login {
    public static void main(String[] args) {
        try {
            DriverManager.getConnection(args[0]).close();
        } catch (SQLException e) {
            System.err.println(e.getMessage());
            System.exit(1);
        }
    }
}
